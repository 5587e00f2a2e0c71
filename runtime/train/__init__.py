"""`stretto run` on the ranks. In comes a command line's `TrainingJob` (`launch`); out come progress
on stderr, one line that sums it up on stdout, and an exit code. `loop` trains, `model` says what a
user's model is, `verify` compares a step with that of one process (`reference`)."""
