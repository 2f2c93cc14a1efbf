# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: T201 - a command prints
"""How often an event is stored whose answer was lost, on Kafka and on this bus.

A relay closes the connection in place of the answer, once for each event. Kafka is the
broker of KAFKA_SERVERS, else one in memory: `make .venv/benched` installs it.
"""

from __future__ import annotations

import tempfile
import uuid
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from support.hermes import make_hermes_home, new_event, use_hermes_home
from support.sidecar import SidecarProcess

from . import kafka
from .lossy_relay import LossyRelay
from .variants import OurBus, create_stream
from .world import nats_servers

if TYPE_CHECKING:
    from collections.abc import Callable

_EVENTS = 5
_STREAM = "lost"


def main() -> None:
    print(f"{_EVENTS} events each; the answer to each of them is lost once.")
    with tempfile.TemporaryDirectory(prefix="lost-") as name:
        directory = Path(name)
        home = make_hermes_home(directory)
        use_hermes_home(home)
        if (broker := kafka.name()) and find_spec("kafka"):
            with kafka.brokers(directory / "kafka") as servers:
                _report(f"Hermes' Kafka bus ({broker})", _on_kafka(servers))
        else:
            print("Hermes' Kafka bus: no broker, or kafka-python is not installed.")
        for hop, texts in _on_ours(home, directory).items():
            _report(f"this bus ({hop})", texts)


def _report(bus: str, texts: list[str]) -> None:
    """Print what stands in a bus after the events were sent to it."""
    times = Counter(texts)
    repeated = sum(count > 1 for count in times.values())
    print(f"{bus}: {len(texts)} stored, {len(times)} different, {repeated} repeated")


def _send_all(relay: LossyRelay, send: Callable[[Any], object]) -> None:
    """Send the events one after the other, as Hermes does."""
    for number in range(_EVENTS):
        relay.lose_next()
        send(new_event(objpkey=number))
    assert relay.lost == _EVENTS


def _on_kafka(servers: list[str]) -> list[str]:
    """Give what is in a topic of its own, which the first event creates."""
    from kafka import KafkaConsumer, KafkaProducer, TopicPartition  # noqa: PLC0415

    topic = f"hermes-lost-{uuid.uuid4().hex[:12]}"
    with LossyRelay(_is_produce_request) as relay:
        producer = KafkaProducer(  # settings and send() are those of Hermes' plugin
            bootstrap_servers=servers,
            security_protocol="PLAINTEXT",
            max_request_size=2**20,
            socks5_proxy=f"socks5://127.0.0.1:{relay.port}",
        )

        def send(event: Any) -> None:
            key, value = event.evcategory.encode(), event.to_json().encode()
            producer.send(topic=topic, key=key, value=value).get()

        _send_all(relay, send)
        producer.close()
    consumer = KafkaConsumer(bootstrap_servers=servers)
    partitions = [
        TopicPartition(topic, number) for number in consumer.partitions_for_topic(topic)
    ]
    consumer.assign(partitions)
    consumer.seek_to_beginning()
    count = sum(consumer.end_offsets(partitions).values())
    texts = [next(consumer).value.decode() for _ in range(count)]
    consumer.close()
    return texts


def _on_ours(home: Path, directory: Path) -> dict[str, list[str]]:
    """Give what is in the stream, by where the answers were lost."""
    with nats_servers(directory / "nats", sync_always=True) as node:
        create_stream(node, _STREAM)
        with LossyRelay(_is_publish, node.port) as to_nats:
            sidecar = SidecarProcess(
                directory / "sidecar",
                nats_url=f"nats://127.0.0.1:{to_nats.port}",
                stream=_STREAM,
                subject_prefix=_STREAM,
                tcp_api="open",
            )
            with sidecar, LossyRelay(_is_post, sidecar.tcp_port) as to_sidecar:
                bus = OurBus(home, f"http://127.0.0.1:{to_sidecar.port}")
                bus.open()
                _send_all(to_sidecar, bus.send)
                of_sidecar = _stored(sidecar, 0)
                _send_all(to_nats, bus.send)
                bus.close()
                of_nats = _stored(sidecar, len(of_sidecar))
    return {"the sidecar's answer": of_sidecar, "NATS' answer": of_nats}


def _stored(sidecar: SidecarProcess, skipped: int) -> list[str]:
    with sidecar.client() as http:
        page = http.get("/v1/events?offset=first&limit=1000").json()
    return [event["data"] for event in page["events"]][skipped:]


def _is_produce_request(piece: bytes) -> bool:
    return piece[4:6] == b"\0\0"  # behind the size: the API key


def _is_publish(piece: bytes) -> bool:
    return b"HPUB lost.base " in piece


def _is_post(piece: bytes) -> bool:
    return piece.startswith(b"POST /v1/events ")


if __name__ == "__main__":
    main()
