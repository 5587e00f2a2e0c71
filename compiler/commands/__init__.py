"""The commands of `stretto`, a file each: `add(parser)` declares its flags, `run(chosen)` does what
they ask for and returns the exit code, `EXAMPLES` stands at the end of the help. To add a command,
add its file and its row here.

In come command lines that argparse has read; out go files, stdout (data), stderr (talk) and exit
codes. `flags` has what several commands declare, `load` turns what was named into a proved Plan,
`files` reads and writes.
"""

COMMANDS = {
    "check": "prove schedules and plans",
    "compile": "write a schedule's plan",
    "show": "draw a schedule or plan",
    "import": "write another system's table as a schedule file",
    "run": "train with a schedule on this machine",
    "list": "compare the schedules that ship",
    "new": "write a schedule file to start from",
    "certify": "confirm a certificate, by a checker of its own",
    "doctor": "tell what is wrong with this environment before a run does",
    "explain": "say what an error code means, or where a plan's time goes",
    "warm": "compile the loops of the search, once per machine",
    "completion": "print the script that completes commands in a shell",
}
"""What each does, in the order of the help; the module has the command's name."""
