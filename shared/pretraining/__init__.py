"""The recipes that made the embedded models: data generators, training, evaluation."""
