"""The rows of the contract, by what they are about."""
