"""What ranks have started does not outlive a training that has failed; nothing else is ended."""

import os
import signal
import subprocess
import sys

from stretto.compiler.commands.leftovers import end_left


def test_only_the_processes_of_the_training_are_ended() -> None:
    sleeping = [sys.executable, "-S", "-c", "print(flush=True); import time; time.sleep(60)"]
    started = [
        subprocess.Popen(
            sleeping,
            env={**os.environ, "A_RUN": folder},
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        for folder in ("/tmp/stretto-1", "/tmp/stretto-12", "/tmp/other")
    ]
    try:
        for process in started:
            assert process.stdout is not None
            process.stdout.readline()
        end_left("A_RUN", "/tmp/stretto-1")
        assert started[0].wait(30) == -signal.SIGKILL
        assert [process.poll() for process in started[1:]] == [None, None]
    finally:
        for process in started:
            process.kill()
            process.communicate()
