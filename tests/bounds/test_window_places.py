"""The windows' least favourable places, found in linear time, are those of all pairs."""

from random import Random

from stretto.compiler.bounds.window import _largest


def test_the_places_are_the_best_of_all() -> None:
    random = Random(1)
    for _ in range(500):
        late = [random.randint(0, 6) for _ in range(random.randint(1, 7))]
        saving, last = random.randint(0, 3), len(late) - 1
        upto, beyond = _largest(late, saving)
        for y in range(len(late)):
            assert upto[y] == max(range(y + 1), key=lambda k: late[k])
            assert beyond[y] == max(range(y, last + 1), key=lambda k: late[k] - saving * k)
