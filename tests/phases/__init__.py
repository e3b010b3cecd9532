"""Tests of the phases beyond plain decode and prefill."""
