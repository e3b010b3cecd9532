"""Other tools' specs and published equations, for their users to migrate and compare."""
