"""Options that several commands share: a frozen value for each group of them."""
