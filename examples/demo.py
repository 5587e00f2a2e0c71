"""What `make demo` shows: DualPipe from a page of text to a trained model, in four commands that
you can type yourself, and at the end the same training in one process beside it.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from time import monotonic

ROOT = Path(__file__).parent.parent
OUT = Path("build/demo")  # plan and pictures, in the folder of the repository
RANKS, MICROBATCHES, STEPS = 4, 8, 40
PLAN, SVG, HTML = OUT / "dualpipe.plan", OUT / "dualpipe.svg", OUT / "dualpipe.html"
SIZE = f"--set ranks={RANKS} --set microbatches={MICROBATCHES}"
MODEL = "--model examples/gpt.py:MODEL --data examples/gpt.py:DATA"


def main() -> int:
    """Shows all of it; the exit code."""
    begun = monotonic()
    (ROOT / OUT).mkdir(parents=True, exist_ok=True)
    title("The schedule: schedules/dualpipe.pipe")
    print((ROOT / "schedules/dualpipe.pipe").read_text())
    title("Compile it: every plan comes with a proof and a lower bound")
    stretto(f"compile dualpipe {SIZE} -o {PLAN}")
    title("Look at it")
    stretto(f"show {PLAN}")
    stretto(f"show {PLAN} -o {SVG}")
    stretto(f"show {PLAN} -o {HTML}")
    title(f"Train a GPT by it: {RANKS} processes, its gradients checked against one process")
    told = list(trained(f"run {PLAN} {MODEL} --steps {STEPS} --verify"))
    title("The same training in one process, without stretto")
    alone = one_process()
    title("The end")
    return ended(losses(told), alone, "\n".join(told), monotonic() - begun)


def title(words: str) -> None:
    """A heading across the terminal."""
    print(f"\n== {words} {'=' * max(0, 96 - len(words))}\n", flush=True)


def stretto(words: str) -> None:
    """Runs a command, showing it as a user would type it."""
    print(f"$ stretto {words}", flush=True)
    subprocess.run(command(words), cwd=ROOT, check=True)


def command(words: str) -> list[str]:
    """A command of stretto, by the Python that runs this."""
    return [sys.executable, "-m", "stretto.compiler.cli", *words.split()]


def trained(words: str) -> Iterator[str]:
    """Runs the training, showing what it says, and gives its lines."""
    print(f"$ stretto {words}", flush=True)
    with subprocess.Popen(
        command(words), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            yield line.rstrip("\n")
    if process.returncode:
        raise SystemExit(f"demo: the training ended with {process.returncode}")


def losses(lines: list[str]) -> dict[int, float]:
    """The mean losses that the training told, by step; those that came too fast it leaves out."""
    found = (re.match(rf"step (\d+)/{STEPS}  loss ([\d.]+)", line) for line in lines)
    return {int(one[1]): float(one[2]) for one in found if one}


def one_process() -> list[float]:
    """A plain loop over micro-batches, no ranks, no plan; on one thread, as every rank had."""
    words = f"examples/gpt.py --stages {RANKS} --microbatches {MICROBATCHES} --steps {STEPS}"
    print(f"$ python {words}", flush=True)
    done = subprocess.run(
        [sys.executable, *words.split()],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    print("...", *done.stdout.splitlines()[-1:], sep="\n", flush=True)
    return [float(loss) for loss in re.findall(r"loss ([\d.]+)", done.stdout)]


def ended(ours: dict[int, float], alone: list[float], told: str, seconds: float) -> int:
    """The summary. Fails where the model did not learn, or learned something else."""
    apart = max(abs(loss - alone[step - 1]) for step, loss in ours.items())
    equal = "all gradients are equal, bit for bit" in told
    print("  step   four ranks, DualPipe   one process")
    for step in sorted({1, STEPS} | {s for s in ours if s % 10 == 0}):
        if step in ours:
            print(f"  {step:>4}   {ours[step]:<20.4f}   {alone[step - 1]:.4f}")
    print(
        f"\n  losses     {ours[1]:.2f} to {ours[STEPS]:.2f} in {STEPS} steps, those of one process "
        f"{f'to within {apart:.4f}' if apart else 'to four digits'}\n"
        f"  gradients  {'equal to' if equal else 'NOT those of'} one process's, bit for bit\n"
        f"  picture    {SVG}; {HTML} to look around in\n"
        f"  took       {seconds:.0f} s\n\n"
        "Next: `stretto new mine`, or the tutorial in docs/tutorial.md. "
        f"(`stretto` is {Path(sys.executable).parent / 'stretto'})"
    )
    learned = ours[STEPS] < 0.8 * ours[1]
    return 0 if equal and learned and apart < 0.01 else 1


if __name__ == "__main__":
    sys.exit(main())
