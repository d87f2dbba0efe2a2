"""Which spec describes some checkpoints: named, bundled, or traced from a model."""
