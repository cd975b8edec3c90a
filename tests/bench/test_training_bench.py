"""The training benchmark measures three ways of the same step."""

from turbosparse.bench.training import Shape, measure_training


def test_every_way_is_timed_and_the_ratios_are_of_those_times():
    shape = Shape(
        hidden_size=64,
        intermediate_size=96,
        num_layers=1,
        num_heads=2,
        vocab_size=128,
        sequence_length=32,
        batch_size_sequences=2,
    )
    measured = measure_training(shape, num_rounds=1, compiled=False)
    seconds = measured["step_seconds"]
    assert min(seconds.values()) > 0
    # One round: medians of ratios are ratios of medians.
    assert measured["ratio_vs_plain_loop"] == seconds["plain"] / seconds["ours"]
    assert measured["overhead_ratio"] == seconds["ours"] / seconds["bare"] - 1
    assert measured["tokens_per_second"] == 64 / seconds["ours"]
    assert measured["mfu"] is not None or measured["mfu_why"]
