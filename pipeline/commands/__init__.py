"""The commands, what they say and how they show that something goes on."""
