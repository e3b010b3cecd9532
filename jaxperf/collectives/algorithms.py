"""α–β cost of one collective over one tier: G ranks, α seconds a message, β seconds a byte.

M is the full vector of an all-reduce, a broadcast or a reduce, the gathered result of an all-gather or reduce-scatter,
and what a rank sends in total for an all-to-all [bytes]. Every function returns seconds for G ≥ 2 ranks and is generic
arithmetic (Python numbers, fractions or arrays). `rounds` is ⌈log2 G⌉.

Sources: Thakur, Rabenseifner, Gropp 2005 (ring, doubling, Bruck); Sanders, Speck, Träff 2009 (double tree: both halves
of the vector cross every link, so 2Mβ); Graham et al. 2016 (in-network reduction); Chan et al. 2007 (torus). No
software all-reduce takes less than 2(G−1)/G·Mβ (Patarasuk & Yuan 2009)."""

from __future__ import annotations

from ..ops import Scalar


def ring_all_gather(size: Scalar, ranks: Scalar, alpha: Scalar, beta: Scalar) -> Scalar:
    """Ring all-gather or reduce-scatter [s]: (G−1)·α + (G−1)/G·M·β."""
    return (ranks - 1) * (alpha + size / ranks * beta)


def doubling_all_gather(size: Scalar, ranks: Scalar, rounds: Scalar, alpha: Scalar, beta: Scalar) -> Scalar:
    """Recursive doubling all-gather or halving reduce-scatter [s]: ⌈log2 G⌉·α + (G−1)/G·M·β."""
    return rounds * alpha + (ranks - 1) * (size / ranks * beta)


def in_network_all_gather(size: Scalar, ranks: Scalar, alpha: Scalar, beta: Scalar) -> Scalar:
    """All-gather or reduce-scatter by the switch, α its latency [s]: 2α + (G−1)/G·M·β."""
    return 2 * alpha + (ranks - 1) * (size / ranks * beta)


def ring_all_reduce(size: Scalar, ranks: Scalar, alpha: Scalar, beta: Scalar) -> Scalar:
    """Ring all-reduce [s]: 2(G−1)·α + 2(G−1)/G·M·β."""
    return 2 * ring_all_gather(size, ranks, alpha, beta)


def tree_all_reduce(size: Scalar, rounds: Scalar, alpha: Scalar, beta: Scalar) -> Scalar:
    """Binomial tree, reduce then broadcast of the whole vector [s]: 2⌈log2 G⌉·(α + M·β)."""
    return 2 * rounds * (alpha + size * beta)


def double_tree_all_reduce(size: Scalar, ranks: Scalar, rounds: Scalar, alpha: Scalar, beta: Scalar) -> Scalar:
    """Pipelined double binary tree [s]: 2⌈log2 G⌉·α + 2M·β."""
    return 2 * rounds * alpha + 2 * (size * beta)


def halving_doubling_all_reduce(size: Scalar, ranks: Scalar, rounds: Scalar, alpha: Scalar, beta: Scalar) -> Scalar:
    """Recursive halving, then doubling [s]: 2⌈log2 G⌉·α + 2(G−1)/G·M·β."""
    return 2 * doubling_all_gather(size, ranks, rounds, alpha, beta)


def one_shot_all_reduce(size: Scalar, ranks: Scalar, alpha: Scalar, beta: Scalar) -> Scalar:
    """Everyone sends its vector to everyone and adds up [s]: α + (G−1)·M·β."""
    return alpha + (ranks - 1) * (size * beta)


def two_shot_all_reduce(size: Scalar, ranks: Scalar, alpha: Scalar, beta: Scalar) -> Scalar:
    """Direct reduce-scatter, then direct all-gather [s]: 2α + 2(G−1)/G·M·β."""
    return 2 * direct_exchange(size, ranks, alpha, beta)


def in_network_all_reduce(size: Scalar, ranks: Scalar, alpha: Scalar, beta: Scalar, multicast: Scalar = 0.0) -> Scalar:
    """The switch adds up, α its latency [s]: 2α + M·β; with `multicast` = 1 a rank moves (G+1)/G·M, as NVLink switches
    make it do."""
    return 2 * alpha + (1 + multicast / ranks) * (size * beta)


def pairwise_all_to_all(size: Scalar, ranks: Scalar, alpha: Scalar, beta: Scalar) -> Scalar:
    """Pairwise all-to-all [s]: (G−1)·α + (G−1)/G·M·β."""
    return (ranks - 1) * (alpha + size / ranks * beta)


def direct_exchange(size: Scalar, ranks: Scalar, alpha: Scalar, beta: Scalar) -> Scalar:
    """All messages at once, for an all-to-all, an all-gather or a reduce-scatter [s]: α + (G−1)/G·M·β.

    A switch that exchanges in hardware is this with its own α."""
    return alpha + (ranks - 1) * (size / ranks * beta)


def bruck_all_to_all(size: Scalar, rounds: Scalar, alpha: Scalar, beta: Scalar) -> Scalar:
    """Bruck's all-to-all [s]: ⌈log2 G⌉·(α + ½M·β)."""
    return rounds * (alpha + size / 2 * beta)


def ring_broadcast(size: Scalar, ranks: Scalar, alpha: Scalar, beta: Scalar) -> Scalar:
    """Pipelined ring broadcast or reduce [s]: (G−1)·α + M·β."""
    return (ranks - 1) * alpha + size * beta


def tree_broadcast(size: Scalar, rounds: Scalar, alpha: Scalar, beta: Scalar) -> Scalar:
    """Binomial tree broadcast or reduce [s]: ⌈log2 G⌉·(α + M·β)."""
    return rounds * (alpha + size * beta)


def in_network_broadcast(size: Scalar, ranks: Scalar, alpha: Scalar, beta: Scalar) -> Scalar:
    """Multicast or reduction by the switch, α its latency [s]: 2α + M·β."""
    return 2 * alpha + size * beta


def point_to_point(size: Scalar, alpha: Scalar, beta: Scalar) -> Scalar:
    """One message [s]: α + M·β."""
    return alpha + size * beta


def torus_all_gather(size: Scalar, ranks: Scalar, steps: Scalar, alpha: Scalar, beta: Scalar) -> Scalar:
    """Bucket all-gather or reduce-scatter along every dimension of a torus or mesh, `steps` = Σ(dᵢ−1) [s]:
    steps·α + (G−1)/G·M·β.

    β is over all ports that the group drives: two a dimension that it spans. An all-reduce is two of them."""
    return steps * alpha + (ranks - 1) * (size / ranks * beta)


def torus_all_to_all(size: Scalar, half_sides: Scalar, widest: Scalar, alpha: Scalar, beta: Scalar) -> Scalar:
    """All-to-all on a torus by its bisection, β a port [s]: Σ⌊dᵢ/2⌋·α + max(dᵢ)/8·M·β."""
    return half_sides * alpha + widest / 8 * size * beta


def mesh_all_to_all(size: Scalar, steps: Scalar, widest: Scalar, alpha: Scalar, beta: Scalar) -> Scalar:
    """All-to-all on a mesh without wrap-around, β a port [s]: Σ(dᵢ−1)·α + max(dᵢ)/4·M·β."""
    return steps * alpha + widest / 4 * size * beta
