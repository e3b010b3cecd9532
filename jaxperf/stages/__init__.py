"""The five stages: memory, FLOPs, traffic, communication, latency, on one operator table."""
