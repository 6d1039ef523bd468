"""What hornbeam does with a model: find it, see when it changed, and run it without changing it."""
