"""How values, pictures and progress are shown to people, whatever they are of."""
