"""Images: where they come from, how they are cached, split, batched and augmented."""
