"""Data parallelism beside pipelines: several pipelines run the same plan, each on its share of the
data, and the gradients of a stage become their mean over the *replicas*, the ranks that hold it in
each of them. In comes a rank's context and how its stages are replicated: by a process group that
the user names, by the `DistributedDataParallel` around a stage, or by FSDP2's `fully_shard`. Once
per stage and step, as soon as the rank's list has the stage's last weight gradient (of all its
copies) behind it, its synchronization begins; what follows on the rank runs beside it, and the
step awaits it at its end.

A module for each of the two ways to do it (`mean`, `sharded`), one for when (`moments`), one that
compares the replicas at the start (`meeting`), and `synchronization`, which the interpreter
calls."""
