"""What was recorded for a batch size computes any images of that size, and its outputs belong to the caller."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from mnv2zoo.deploy import graphs
from tests.conftest import needs_cuda
from tests.deploy.conftest import expected

CPU = torch.device("cpu")


class Again:
    """Records a computation on the CPU: what is replayed is the computation itself, between the same addresses."""

    def __init__(self):
        self.sizes, self.calls = [], 0

    def record(self, compute, images):
        self.sizes.append(len(images))
        outputs = compute(images)

        def replay():
            for output, value in zip(outputs, compute(images), strict=True):
                output.copy_(value)

        return outputs, replay

    def wait(self):
        self.calls += 1


def sums(images):
    """Two outputs per image, by which images can be told apart."""
    return images.sum((1, 2, 3)), images[:, 0]


def run_sums(recorder, most=2):
    return graphs.runner(sums, (3, 4, 4), torch.float32, CPU, recorder, most)


def test_the_first_sizes_are_recorded_and_further_sizes_run_without():
    recorder = Again()
    run = run_sums(recorder)
    for size in (3, 1, 5, 3, 1, 5):
        images = torch.randn(size, 3, 4, 4)
        for found, wanted in zip(run(images), sums(images), strict=True):
            torch.testing.assert_close(found, wanted)
    assert recorder.sizes == [3, 1]
    assert recorder.calls == 4


def test_a_device_without_graphs_records_nothing():
    images = torch.randn(2, 3, 4, 4)
    found, _ = run_sums(None)(images)
    torch.testing.assert_close(found, sums(images)[0])
    assert graphs.recorder_for(CPU) is None


def test_a_later_call_leaves_earlier_outputs_alone():
    run, images = run_sums(Again()), torch.randn(2, 3, 4, 4)
    first = run(images)
    kept = [output.clone() for output in first]
    run(torch.zeros(2, 3, 4, 4))
    assert all(map(torch.equal, first, kept))


def test_a_call_in_inference_mode_leaves_later_calls_outside_of_it_possible():
    run, images = run_sums(Again()), torch.randn(2, 3, 4, 4)
    with torch.inference_mode():
        inside = run(images.clone())  # images of that mode
    outside = run(images)
    assert all(map(torch.equal, inside, outside))
    assert not any(output.is_inference() for output in (*inside, *outside))


def test_threads_get_the_outputs_of_their_own_images():
    run = run_sums(Again())
    batches = [torch.full((1 + number % 3, 3, 4, 4), float(number)) for number in range(200)]
    with ThreadPoolExecutor(8) as pool:
        for found, batch in zip(pool.map(run, batches), batches, strict=True):
            assert torch.equal(found[1], batch[:, 0])


@pytest.mark.parametrize("recorder", [None, Again()])
@pytest.mark.parametrize("given", [torch.float64, torch.float32, torch.float16])
def test_a_network_sees_its_own_type_and_layout_and_gives_single_precision(recorder, given):
    seen = []

    def network(images):
        seen.append((images.dtype, images.is_contiguous(memory_format=torch.channels_last), images.requires_grad))
        return [images]

    run = graphs.runner(network, (3, 4, 4), torch.bfloat16, CPU, recorder)
    (found,) = run(torch.ones(2, 3, 4, 4, dtype=given))
    assert torch.equal(found, torch.ones(2, 3, 4, 4))
    assert found.dtype == torch.float32
    assert set(seen) == {(torch.bfloat16, True, False)}


@pytest.mark.parametrize("count", [1, 3, 4, 9])
def test_parts_of_one_size_make_a_batch_of_any_size(count):
    sizes = []

    def run(images):
        sizes.append(len(images))
        return sums(images)

    images = torch.randn(count, 3, 4, 4)
    for found, wanted in zip(graphs.in_parts(run, 4, images), sums(images), strict=True):
        torch.testing.assert_close(found, wanted)
    assert set(sizes) == {4}


def test_the_choice_of_convolutions_is_restored():
    before = torch.backends.cudnn.benchmark
    with graphs.fastest_convolutions():
        assert torch.backends.cudnn.benchmark
    assert torch.backends.cudnn.benchmark == before


@needs_cuda
def test_a_cuda_graph_computes_what_the_network_computes(small):
    device = torch.device("cuda", 0)
    network = small.to(device)
    try:
        run = graphs.runner(
            lambda images: [network(images)], (3, 64, 64), torch.float32, device, graphs.recorder_for(device), 2
        )
        for size in (2, 3, 4, 2):
            images = torch.randn(size, 3, 64, 64, device=device)
            (found,), wanted = run(images), expected(network, images)
            assert (found - wanted).norm() < 0.05 * wanted.norm()  # by other algorithms of cuDNN, in TF32
    finally:
        small.cpu()


@needs_cuda
def test_streams_take_turns_on_a_cuda_graph():
    device = torch.device("cuda", 0)
    run = graphs.runner(sums, (3, 4, 4), torch.float32, device, graphs.recorder_for(device))
    run(torch.zeros(1, 3, 4, 4, device=device))

    def work(number):
        with torch.cuda.stream(torch.cuda.Stream(device)):
            return run(torch.full((1, 3, 4, 4), float(number)))[0].item()

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(work, range(100))) == [48.0 * number for number in range(100)]
