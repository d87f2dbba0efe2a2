"""Pictures of what commands find, and pages around them."""
