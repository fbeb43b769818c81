"""Public keys for tunnels that the bench sets up: X25519 (RFC 7748, section 5). Not constant in time: for labs only."""

P = 2**255 - 19
_A24 = 121665
BASE = (9).to_bytes(32, "little")


def clamp(private: bytes) -> bytes:
    """The 32 bytes with the bits set and cleared that every private key has."""
    scalar = int.from_bytes(private, "little") & ~7 & (1 << 255) - 1 | 1 << 254
    return scalar.to_bytes(32, "little")


def multiply(private: bytes, point: bytes = BASE) -> bytes:
    """The point times the private key; of the base point, the public key. By the Montgomery ladder."""
    scalar = int.from_bytes(clamp(private), "little")
    u = (int.from_bytes(point, "little") & (1 << 255) - 1) % P
    x2, z2, x3, z3, swapped = 1, 0, u, 1, 0
    for position in range(254, -1, -1):
        bit = scalar >> position & 1
        if swapped ^ bit:
            x2, z2, x3, z3 = x3, z3, x2, z2
        swapped = bit
        plus, minus = (x2 + z2) % P, (x2 - z2) % P
        square, other = plus * plus % P, minus * minus % P
        difference = (square - other) % P
        cross_minus, cross_plus = (x3 - z3) * plus % P, (x3 + z3) * minus % P
        x3, z3 = (cross_minus + cross_plus) ** 2 % P, u * (cross_minus - cross_plus) ** 2 % P
        x2, z2 = square * other % P, difference * (square + _A24 * difference) % P
    if swapped:
        x2, z2 = x3, z3
    return (x2 * pow(z2, P - 2, P) % P).to_bytes(32, "little")
