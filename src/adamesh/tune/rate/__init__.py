"""Which learning rate? It rises while the model trains, and the curve of the loss is judged."""
