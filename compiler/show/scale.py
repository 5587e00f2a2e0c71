"""Round times for an axis."""


def marks(makespan: int, unit: int, most: int) -> range:
    """Ticks from 0 to the makespan, at a distance of 1, 2 or 5 times a power of ten units, such
    that there are at most `most` of them."""
    distance = next(
        ten * n
        for ten in (10**power for power in range(20))
        for n in (1, 2, 5)
        if makespan // (ten * n * unit) < most
    )
    return range(0, makespan + 1, distance * unit)
