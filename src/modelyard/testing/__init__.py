"""What proves an implementation of a contract, and what helps to test steps."""
