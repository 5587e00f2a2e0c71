"""How the streams of a rank run side by side: on the CPU by a thread each (`host`, under the
`settings` of the step's thread), on a GPU by a device stream each, issued from one thread
(`device`). In comes what each stream is to run, in the sequence of the rank's list; what is
promised is that sequence on each stream, and that an `await` lets a stream go on when the
computation of another has ended. Nothing else binds them. Neither knows the instructions."""
