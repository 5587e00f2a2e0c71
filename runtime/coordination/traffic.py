"""Whether tensors are on their way: over a slow link a message may take longer than the timeout,
and a rank that waits for it does not stand still. In come this process's TCP connections; out comes
how many bytes have gone through them."""

import os
import socket
import stat
import struct

TCP_INFO_ACKED = 120  # where `struct tcp_info` (linux/tcp.h) has tcpi_bytes_acked, and behind it
TCP_INFO_SIZE = 136  # tcpi_bytes_received: two numbers of 64 bits


def bytes_moved(store_port: int) -> int:
    """How many bytes this process's connections have received, and have seen acknowledged, but for
    those with the store at this port, over which ranks tell each other where they are."""
    return sum(_moved(number, store_port) for number in _open_files())


def _open_files() -> list[int]:
    try:
        return [int(name) for name in os.listdir("/proc/self/fd")]
    except OSError:
        return []


def _moved(number: int, store_port: int) -> int:
    try:
        if not stat.S_ISSOCK(os.fstat(number).st_mode):
            return 0
        with socket.socket(fileno=os.dup(number)) as connection:
            if connection.family not in (socket.AF_INET, socket.AF_INET6):
                return 0
            if store_port in (connection.getsockname()[1], connection.getpeername()[1]):
                return 0
            told = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO_SIZE)
            return sum(struct.unpack_from("=QQ", told, TCP_INFO_ACKED))
    except (OSError, struct.error):  # closed meanwhile, not TCP, not connected
        return 0
