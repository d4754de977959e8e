"""What was done, in numbers: in a process, and on the ``/metrics`` of a cluster's workers."""

from __future__ import annotations

import subprocess
import sys
from urllib.parse import urlsplit
from urllib.request import urlopen

import pytest
from distributed import Client
from prometheus_client.parser import text_string_to_metric_families

from pipeline.execute.schedulers import scheduler_in_force
from pipeline.process import metrics
from pipeline.process.metrics import Done
from pipeline.process.underway import Work
from tests.talking import BROKEN, compute

STAGES = {"read", "first_of", "write"}

Numbers = dict[str, float]


def gained(before: Numbers, after: Numbers) -> Numbers:
    return {name: value - before.get(name, 0) for name, value in after.items()}


@pytest.mark.usefixtures("in_threads")
def test_blocks_pixels_and_failures_are_counted() -> None:
    before = metrics.totals()
    compute(Work("a"), (0, 0), (1, 1), BROKEN)
    found = gained(before, metrics.totals())
    assert found['wsi_pipeline_blocks_total{state="done"}'] == 2
    assert found["wsi_pipeline_pixels_total"] == 200
    assert found["wsi_pipeline_attempts_failed_total"] == 1


@pytest.mark.usefixtures("in_threads")
def test_seconds_of_a_slide_are_given_once() -> None:
    compute(Work("once a"), (0, 0))
    compute(Work("once b"), (0, 1))
    first = metrics.taken("once a")
    assert set(first) == STAGES
    assert all(seconds > 0 for seconds in first.values())
    assert metrics.taken("once a") == {}
    assert set(metrics.taken("once b")) == STAGES


@pytest.mark.usefixtures("in_threads")
def test_pyramids_and_blocks_without_a_name_are_not_counted() -> None:
    before = metrics.totals()
    compute(Work("a", "pyramid"), (0, 0))
    compute(None, (0, 0))
    assert not any(gained(before, metrics.totals()).values())


def test_slides_are_counted_by_what_became_of_them() -> None:
    before = metrics.totals()
    metrics.slide_ended("done", 0)
    metrics.slide_ended("partial", 3)
    found = gained(before, metrics.totals())
    assert found['wsi_pipeline_slides_total{state="partial"}'] == 1
    assert found['wsi_pipeline_blocks_total{state="failed"}'] == 3


def test_slides_that_nobody_takes_are_forgotten() -> None:
    for number in range(metrics._MOST_SLIDES + 10):
        metrics.count(f"slide {number}", "read", Done(1.0))
    assert metrics.taken("slide 0") == {}
    assert metrics.taken(f"slide {metrics._MOST_SLIDES + 9}") == {"read": 1.0}


def scraped(client: Client) -> Numbers:
    """Give what all workers and the scheduler show, added up as Prometheus would."""
    workers = client.scheduler_info()["workers"].values()
    places = {f"{w['host']}:{w['services']['dashboard']}" for w in workers}
    places.add(urlsplit(client.dashboard_link).netloc)
    sums: Numbers = {}
    for place in places:
        with urlopen(f"http://{place}/metrics", timeout=60) as answer:
            families = list(text_string_to_metric_families(answer.read().decode()))
        for sample in (sample for family in families for sample in family.samples):
            if sample.name.startswith("wsi_pipeline") and sample.name.endswith("_total"):
                key = sample.name + "".join(sample.labels.values())
                sums[key] = sums.get(key, 0) + sample.value
    return sums


def test_workers_and_scheduler_show_the_numbers_of_a_run(client: Client) -> None:
    before = scraped(client)
    compute(Work("a"), (0, 0), (0, 1), (1, 1), BROKEN)
    metrics.slide_ended("partial", 1)
    found = gained(before, scraped(client))
    assert found["wsi_pipeline_blocks_totaldone"] == 3
    assert found["wsi_pipeline_blocks_totalfailed"] >= 1
    assert found["wsi_pipeline_attempts_failed_total"] == 1
    assert found["wsi_pipeline_pixels_total"] == 300
    assert found["wsi_pipeline_slides_totalpartial"] >= 1
    spent = {stage: found[f"wsi_pipeline_stage_seconds_total{stage}"] for stage in STAGES}
    assert all(seconds > 0 for seconds in spent.values())
    taken = scheduler_in_force().everywhere(metrics.taken, "a")
    assert sum(each["read"] for each in taken if each) == pytest.approx(spent["read"])


def test_numbers_need_no_prometheus() -> None:
    code = (
        "import sys\n"
        "from pipeline.process import metrics\n"
        "metrics.count('a', 'write', metrics.Done(0.5, pixels=9))\n"
        "assert 'prometheus_client' not in sys.modules\n"
        "print(metrics.totals()['wsi_pipeline_pixels_total'])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("9\n", "")
