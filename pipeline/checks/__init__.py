"""Whether slides can be read, stores are whole, and two runs gave the same."""
