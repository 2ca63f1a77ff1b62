"""What a training leaves behind: the run folder, its checkpoints, and how far the training has come."""
