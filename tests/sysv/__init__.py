"""A package, because test files in tests/posix have the same names."""
