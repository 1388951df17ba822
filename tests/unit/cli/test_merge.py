"""Several partitions' records in order of time: exactly as `Topic.read` has them."""

import tempfile

from hypothesis import given, settings
from hypothesis import strategies as st

import seglog
from seglog.cli.merge import merged

few_times = st.lists(st.integers(0, 6), max_size=25)  # so few that there are ties, and steps back


@settings(deadline=None, max_examples=30)
@given(times=st.lists(few_times, min_size=1, max_size=4), batch=st.integers(1, 6))
def test_the_order_is_that_of_topic_read(times, batch):
    with tempfile.TemporaryDirectory() as folder, seglog.open(folder, fsync="never") as store:
        topic = store.topic("t", partitions=len(times))
        for partition, some in enumerate(times):
            if some:
                topic.send_many([b"%d" % i for i in range(len(some))], timestamps=some, partition=partition)
        streams = [topic.batches(partition=partition, max_records=batch) for partition in range(len(times))]
        pieces = [piece for some in merged(streams, places) for piece in some]
        assert pieces == [b"%d:%d" % tuple(record.position) for record in topic.read()]


def places(batch: seglog.Batch) -> list[bytes]:
    return [b"%d:%d" % (batch.partition, offset) for offset in batch.offsets.tolist()]
