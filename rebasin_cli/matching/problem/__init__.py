"""What is matched: families, terms of the objective, similarities, and how well it went."""
