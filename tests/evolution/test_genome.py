"""Genomes against dense float64 arithmetic; weights written in place, base and experts never."""

from __future__ import annotations

import hashlib
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from cyqd.evolution import CompactGenome, DenseGenome, ExpertSpace, Genome, GenomeStore, materialise
from cyqd.evolution.crossover import crossover_coefficients
from cyqd.evolution.mutation import mutate
from cyqd.evolution.parts import Granularity
from tests.evolution.models import (
    MATRICES,
    SHAPES,
    add_bases,
    array,
    assert_same_task_vector,
    bits,
    dense_combine,
    dense_stretch,
    dense_task_vector,
    open_space,
    read,
    write_models,
)

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def live(dtype: torch.dtype = torch.float32) -> dict[str, nn.Parameter]:
    return {name: nn.Parameter(torch.full(shape, torch.nan, dtype=dtype)) for name, shape in SHAPES.items()}


def random_genome(space: ExpertSpace, seed: int, *, dense: bool = False) -> Genome:
    generator = torch.Generator().manual_seed(seed)
    alpha = torch.randn(len(space.experts), generator=generator).tolist()
    genome: Genome = CompactGenome(space, alpha)
    for k in range(len(space.experts)):
        genome = mutate(genome, k, generator, w_max=1.0)
    return mutate(genome, 0, generator, variant="gaussian") if dense else genome


def same(first: Genome, second: Genome, *, relative: float = 1e-5) -> None:
    expected = {name: array(second.task_vector(name)) for name in SHAPES}
    assert_same_task_vector(first, expected, relative=relative)


# Closure: whole lineages against float64


def test_fifty_generations_of_crossover_and_expert_mutation_stay_compact_and_exact(space):
    """After 50 generations every parameter is within 2e-5 of its largest entry of the float64 computation."""
    generator = torch.Generator().manual_seed(1)
    taus = [dense_task_vector(expert, space.base) for expert in space.experts]
    population = [(space.expert(k), taus[k]) for k in range(3)]
    for generation in range(1, 51):
        active = generation % 3
        i, j = torch.randint(len(population), (2,), generator=generator).tolist()
        a, b = crossover_coefficients(generator)
        (first, dense_first), (second, dense_second) = population[i], population[j]
        crossed = a * first + b * second
        child = mutate(crossed, active, generator)
        earlier = crossed.tensors().get(f"omega.{active}")
        w = array(child.tensors()[f"omega.{active}"]) - (0.0 if earlier is None else array(earlier))
        dense = dense_combine([(a, dense_first), (b, dense_second)])
        for name, part in space.bases[active].slices.items():
            dense[name] = dense[name] + dense_stretch(taus[active][name], w[part])
        population.append((child, dense))
    assert all(isinstance(genome, CompactGenome) for genome, _ in population)
    for genome, dense in population:
        assert_same_task_vector(genome, dense, relative=2e-5)


@pytest.mark.parametrize(("variant", "shift"), [("child", 1.0), ("literal", 0.0)])
def test_fifty_generations_of_a_dense_mutation_follow_float64(space, variant, shift):
    """The draws are read off each mutant in the float64 basis, so that errors may only come from arithmetic."""
    generator = torch.Generator().manual_seed(2)
    population = [(space.expert(k), dense_task_vector(space.experts[k], space.base)) for k in range(3)]
    for _ in range(50):
        i, j = torch.randint(len(population), (2,), generator=generator).tolist()
        a, b = crossover_coefficients(generator)
        (first, dense_first), (second, dense_second) = population[i], population[j]
        child = mutate(a * first + b * second, 0, generator, variant=variant)
        dense = dense_combine([(a, dense_first), (b, dense_second)])
        for name in MATRICES:
            flat, mutant = (m.reshape(len(m), -1) for m in (dense[name], array(child.task_vector(name))))
            u, sigma, vt = np.linalg.svd(flat, full_matrices=False)
            keep = sigma > 1e-5 * max(sigma[0], 1e-6)
            w = np.diag(u.T @ mutant @ vt.T)[keep] / sigma[keep] - shift
            assert np.all((w > -1e-3) & (w < 0.3 + 1e-3))
            dense[name] = dense_stretch(dense[name], w, shift=shift)
        population.append((child, dense))
        population = population[-6:]  # literal shrinks what is old to nothing
    for genome, dense in population:
        assert_same_task_vector(genome, dense, relative=1e-4)


def test_fifty_generations_of_gaussian_mutation_follow_float64(space):
    generator = torch.Generator().manual_seed(3)
    population = [(space.expert(k), dense_task_vector(space.experts[k], space.base)) for k in range(3)]
    for _ in range(50):
        i, j = torch.randint(len(population), (2,), generator=generator).tolist()
        a, b = crossover_coefficients(generator)
        (first, dense_first), (second, dense_second) = population[i], population[j]
        crossed = a * first + b * second
        child = mutate(crossed, 0, generator, variant="gaussian")
        noise = {n: array(child.task_vector(n)) - array(crossed.task_vector(n)) for n in SHAPES}
        population.append((child, dense_combine([(a, dense_first), (b, dense_second), (1.0, noise)])))
    for genome, dense in population:
        assert_same_task_vector(genome, dense)


# A vector space


@given(
    seeds=st.tuples(st.integers(0, 50), st.integers(51, 99)),
    kinds=st.tuples(st.booleans(), st.booleans()),
    factors=st.tuples(st.floats(-2, 2), st.floats(-2, 2)),
)
def test_genomes_obey_the_laws_of_a_vector_space(space, seeds, kinds, factors):
    """Compact and dense ones, and sums of one of each."""
    g, h = (random_genome(space, seed, dense=dense) for seed, dense in zip(seeds, kinds, strict=True))
    a, b = factors
    same(g + h, h + g)
    assert all(bits((a * g).task_vector(n)) == bits((g * a).task_vector(n)) for n in SHAPES)
    total = dense_combine([(1.0, {n: array(x.task_vector(n)) for n in SHAPES}) for x in (g, h)])
    assert_same_task_vector(g + h, total, relative=2e-5)
    same(a * g + b * g, (a + b) * g, relative=1e-4 * max(1.0, (abs(a) + abs(b)) / max(abs(a + b), 1e-2)))
    for name in SHAPES:
        np.testing.assert_allclose(
            array((a * (g + h)).task_vector(name)),
            array((a * g + a * h).task_vector(name)),
            atol=2e-5 * (1 + np.abs(total[name]).max() + np.abs(array(g.task_vector(name))).max()),
        )


def test_a_sum_is_compact_only_where_both_parts_are(space):
    compact, dense = random_genome(space, 0), random_genome(space, 1, dense=True)
    assert isinstance(compact + 2 * compact, CompactGenome)
    for mixed in (compact + dense, dense + compact, dense + dense):
        assert isinstance(mixed, DenseGenome)


def test_operations_leave_their_operands_alone(space):
    for dense in (False, True):
        g, h = random_genome(space, 0, dense=dense), random_genome(space, 1, dense=dense)
        before = [bits(t) for x in (g, h) for t in x.tensors().values()]
        for child in (g + h, 0.3 * g, mutate(g, 1, torch.Generator().manual_seed(0), variant="child")):
            materialise(child, live())
        assert [bits(t) for x in (g, h) for t in x.tensors().values()] == before


def test_origin_expert_and_mean_are_the_named_models(space):
    taus = [dense_task_vector(expert, space.base) for expert in space.experts]
    assert not any(space.origin().task_vector(name).any() for name in SHAPES)
    assert_same_task_vector(space.expert(1), taus[1])
    assert_same_task_vector(space.mean(), dense_combine([(1 / 3, tau) for tau in taus]))


# Parts

GRANULARITIES = ("layer", "group")
LAYERED = {"embed.weight": (6, 4), **{f"layers.{i}.{m}.weight": (4, 5) for i in range(3) for m in ("up", "down")}}


@pytest.fixture(scope="module")
def layered(tmp_path_factory) -> ExpertSpace:
    """Two experts of a base with three layers of two groups each."""
    generator = torch.Generator().manual_seed(0)
    base, *experts = ({n: torch.randn(s, generator=generator) for n, s in LAYERED.items()} for _ in range(3))
    space = ExpertSpace(base, experts, ["a", "b"])
    add_bases(space, tmp_path_factory.mktemp("layered"))
    return space


def parted(space: ExpertSpace, granularity: Granularity, seed: int = 0) -> CompactGenome:
    """A genome with coefficients for every part, and with all numbers of ω set."""
    generator = torch.Generator().manual_seed(seed)
    parts = len(space.part_names(granularity))
    alpha = torch.randn(len(space.experts), parts, dtype=torch.float64, generator=generator)
    omega = [torch.rand(bases.size, generator=generator) for bases in space.bases]
    return CompactGenome(space, alpha, omega, granularity=granularity)


@pytest.mark.parametrize(("granularity", "parts"), [("model", 1), ("layer", 4), ("group", 3)])
def test_each_part_has_coefficients_of_its_own(layered, granularity, parts):
    genome = parted(layered, granularity)
    assert genome.alpha.shape == (2, parts)
    for name, part in layered.parts(granularity).items():
        expected = np.zeros(LAYERED[name])
        for k, expert in enumerate(layered.experts):
            tau = array(expert[name]) - array(layered.base[name])
            omega = array(genome.omega[k][layered.bases[k].slices[name]])
            expected += dense_stretch(tau, omega, shift=float(genome.alpha[k, part]))
        assert_same_task_vector(genome, {name: expected})


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_a_sum_with_a_genome_of_the_whole_model_has_the_other_ones_parts(layered, granularity):
    fine, coarse = parted(layered, granularity), parted(layered, "model", seed=1)
    for total in (fine + coarse, coarse + fine):
        assert isinstance(total, CompactGenome)
        assert total.granularity == granularity
        taus = [{n: array(g.task_vector(n)) for n in LAYERED} for g in (fine, coarse)]
        assert_same_task_vector(total, dense_combine([(1.0, tau) for tau in taus]))


def test_genomes_with_layers_and_with_groups_do_not_add_up(layered):
    with pytest.raises(ValueError, match="granularity"):
        parted(layered, "layer") + parted(layered, "group")


@pytest.mark.parametrize("own", ["model", "layer", None])
@pytest.mark.parametrize("granularity", ["model", "layer"])
def test_scaling_multiplies_every_part_by_its_factor(layered, own, granularity):
    """Of compact genomes, and of a dense one."""
    genome = parted(layered, own) if own else mutate(layered.mean(), 0, torch.Generator(), variant="gaussian")
    factors = torch.linspace(-1, 2, len(layered.part_names(granularity)), dtype=torch.float64)
    scaled = genome.scaled(factors, granularity)
    assert type(scaled) is type(genome)
    for name, part in layered.parts(granularity).items():
        assert_same_task_vector(scaled, {name: float(factors[part]) * array(genome.task_vector(name))})


def test_layers_cannot_be_scaled_group_by_group(layered):
    with pytest.raises(ValueError, match="granularity"):
        parted(layered, "layer").scaled(torch.ones(3, dtype=torch.float64), "group")


@pytest.mark.parametrize("dense", [False, True])
def test_as_many_factors_as_parts_are_needed(layered, dense):
    genome = parted(layered, "layer") + DenseGenome(layered, layered.base) if dense else layered.mean()
    with pytest.raises(ValueError, match=r"factors: expected \[4\].*got \[3\]"):
        genome.scaled(torch.ones(3, dtype=torch.float64), "layer")


@pytest.mark.parametrize("alpha", [[0.5], [0.5] * 3, torch.ones(2, 3), torch.ones(4, 2)], ids=str)
def test_coefficients_of_another_shape_are_refused(layered, alpha):
    with pytest.raises(ValueError, match=r"alpha: expected shape \[2\] or \[2, 4\]"):
        CompactGenome(layered, alpha, granularity="layer")


def test_an_unknown_granularity_is_refused(layered):
    with pytest.raises(ValueError, match=r"granularity: expected one of .*'tensor'"):
        CompactGenome(layered, [0.5, 0.5], granularity="tensor")


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_a_part_that_is_one_experts_is_its_bit_for_bit(layered, granularity):
    parts = len(layered.part_names(granularity))
    owners = torch.arange(parts) % 3  # the base, an expert, the other
    alpha = torch.stack([owners == 1, owners == 2]).double()
    genome = CompactGenome(layered, alpha, granularity=granularity)
    models = [layered.base, *layered.experts]
    for name, part in layered.parts(granularity).items():
        assert bits(genome.weight(name)) == bits(models[int(owners[part])][name])


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_a_stored_genome_keeps_its_parts(layered, tmp_path, granularity):
    store, genome = GenomeStore(tmp_path, layered), parted(layered, granularity)
    store.save(0, genome)
    loaded = store.load(0)
    assert isinstance(loaded, CompactGenome)
    assert loaded.granularity == granularity
    assert bits(loaded.alpha) == bits(genome.alpha)
    assert all(bits(loaded.weight(name)) == bits(genome.weight(name)) for name in LAYERED)


# Materialise


@pytest.mark.parametrize("dtype", DTYPES)
def test_an_expert_and_the_base_materialise_bit_for_bit(tmp_path, dtype):
    space = open_space(tmp_path, dtype=dtype)
    cases = [(space.origin(), space.base), *((space.expert(k), w) for k, w in enumerate(space.experts))]
    for genome, weights in cases:
        parameters = live(dtype)
        materialise(genome, parameters)
        assert all(bits(parameters[name]) == bits(weights[name]) for name in SHAPES)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_stored_expert_still_materialises_bit_for_bit(tmp_path, dtype):
    space = open_space(tmp_path, dtype=dtype)
    store = GenomeStore(tmp_path / "genomes", space)
    store.save(2, space.expert(2))
    parameters = live(dtype)
    materialise(store.load(2), parameters)
    assert all(bits(parameters[name]) == bits(space.experts[2][name]) for name in SHAPES)


def test_an_expert_far_smaller_than_its_base_still_comes_back_bit_for_bit():
    """θ_b + (θ − θ_b) would lose its low bits: the expert's own tensor must be written."""
    generator = torch.Generator().manual_seed(0)
    base = {"head.weight": torch.randn(8, 8, generator=generator)}
    expert = {"head.weight": 1e-6 * torch.randn(8, 8, generator=generator)}
    tau = expert["head.weight"] - base["head.weight"]
    assert bits(base["head.weight"] + tau) != bits(expert["head.weight"])
    parameters = {"head.weight": nn.Parameter(torch.zeros(8, 8))}
    materialise(ExpertSpace(base, [base, expert], ["a", "b"]).expert(1), parameters)
    assert bits(parameters["head.weight"]) == bits(expert["head.weight"])


@pytest.mark.parametrize("dtype", DTYPES)
def test_negative_zeros_of_the_base_keep_their_sign(dtype):
    base = {"norm.weight": torch.tensor([-0.0, 0.0, -0.0, 1.0, -1.0, 2.0], dtype=dtype)}
    space = ExpertSpace(base, [{"norm.weight": base["norm.weight"] + 1}] * 2, ["a", "b"])
    parameters = {"norm.weight": nn.Parameter(torch.zeros(6, dtype=dtype))}
    materialise(space.origin(), parameters)
    assert bits(parameters["norm.weight"]) == bits(base["norm.weight"])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dense", [False, True])
def test_weights_are_accumulated_in_float32_and_cast_once(tmp_path, dtype, dense):
    space = open_space(tmp_path, dtype=dtype)
    genome = random_genome(space, 4, dense=dense)
    parameters = live(dtype)
    materialise(genome, parameters)
    for name in SHAPES:
        exact = array(space.base[name]) + array(genome.task_vector(name))
        weight = genome.weight(name)
        assert weight.dtype == torch.float32
        np.testing.assert_allclose(array(weight), exact, rtol=1e-6, atol=1e-6)
        assert bits(parameters[name]) == bits(weight.to(dtype))


def test_materialise_writes_in_place_and_keeps_no_graph(space):
    parameters = live()
    where = {name: p.data_ptr() for name, p in parameters.items()}
    materialise(random_genome(space, 1), parameters)
    assert {name: p.data_ptr() for name, p in parameters.items()} == where
    assert all(p.requires_grad and p.grad_fn is None for p in parameters.values())
    assert not any(p.isnan().any() for p in parameters.values())


def test_materialise_touches_neither_base_nor_experts_in_memory_or_on_disk(tmp_path):
    space = open_space(tmp_path)
    files = sorted(tmp_path.rglob("*.safetensors"))

    def fingerprint() -> list[str]:
        memory = [bits(w[n]) for w in (space.base, *space.experts) for n in sorted(w)]
        return [hashlib.sha256(data).hexdigest() for data in (*memory, *(f.read_bytes() for f in files))]

    before, parameters = fingerprint(), live()
    for dense, k in itertools.product((False, True), range(3)):
        materialise(random_genome(space, k, dense=dense), parameters)
        materialise(space.expert(k), parameters)
        for parameter in parameters.values():  # what training or the next child would do to the live module
            parameter.data.add_(1)
    assert fingerprint() == before


def test_materialise_refuses_live_parameters_that_share_the_bases_memory(space):
    """A space made from the live module's own state dict would overwrite the base with the first child."""
    base = {name: tensor.clone() for name, tensor in space.base.items()}
    parameters = {name: nn.Parameter(tensor) for name, tensor in base.items()}
    aliased = ExpertSpace(base, space.experts, space.tasks)
    with pytest.raises(ValueError, match="share"):
        materialise(aliased.mean(), parameters)


# The store


@pytest.mark.parametrize("dense", [False, True])
def test_a_stored_genome_comes_back_exactly(space, tmp_path, dense):
    store, genome = GenomeStore(tmp_path, space), random_genome(space, 7, dense=dense)
    store.save(12, genome)
    loaded = store.load(12)
    assert type(loaded) is type(genome)
    assert loaded.tensors().keys() == genome.tensors().keys()
    assert all(bits(t) == bits(genome.tensors()[name]) for name, t in loaded.tensors().items())
    assert all(bits(loaded.weight(name)) == bits(genome.weight(name)) for name in SHAPES)


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=3, max_size=3))
def test_coefficients_keep_every_bit_in_the_store(space, tmp_path_factory, alpha):
    store = GenomeStore(tmp_path_factory.getbasetemp() / "alpha", space)
    store.save(0, CompactGenome(space, alpha))
    loaded = store.load(0)
    assert isinstance(loaded, CompactGenome)
    assert bits(loaded.alpha) == np.array(alpha).tobytes()


def test_a_file_with_one_coefficient_per_expert_loads(space, tmp_path):
    """As of a version that knew no parts."""
    omega = torch.rand(space.bases[1].size)
    save_file({"alpha": torch.tensor([0.2, 0.3, 0.5]).double(), "omega.1": omega}, tmp_path / "000004.safetensors")
    loaded = GenomeStore(tmp_path, space).load(4)
    same(loaded, CompactGenome(space, torch.tensor([0.2, 0.3, 0.5]).double(), [None, omega, None]))


def test_pruning_keeps_what_is_named_and_deletes_half_written_files(space, tmp_path):
    store = GenomeStore(tmp_path, space)
    for id in range(5):
        store.save(id, space.expert(0))
    (tmp_path / ".000009.safetensors.123.tmp").write_bytes(b"half")
    (tmp_path / "notes.txt").write_text("the user's own")
    store.prune({1, 3})
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "000001.safetensors",
        "000003.safetensors",
        "notes.txt",
    ]
    with pytest.raises(FileNotFoundError):
        store.load(0)


def test_a_genome_that_is_loaded_survives_its_files_deletion(space, tmp_path):
    store, genome = GenomeStore(tmp_path, space), random_genome(space, 3)
    store.save(0, genome)
    loaded = store.load(0)
    store.prune(())
    assert all(bits(loaded.weight(name)) == bits(genome.weight(name)) for name in SHAPES)


def test_a_reader_neither_writes_nor_prunes(space, tmp_path):
    writer, reader = GenomeStore(tmp_path, space), GenomeStore(tmp_path, space, writable=False)
    writer.save(0, space.expert(0))
    reader.save(1, space.expert(1))
    reader.prune(())
    assert [path.name for path in tmp_path.iterdir()] == ["000000.safetensors"]


# Errors


def models(tmp_path) -> list[dict[str, torch.Tensor]]:
    return [{n: t.clone() for n, t in read(path).items()} for path in write_models(tmp_path, tasks=2)]


def test_a_missing_tensor_is_named(tmp_path):
    base, first, second = models(tmp_path)
    del second["norm.weight"]
    with pytest.raises(ValueError, match=r"database.*'norm\.weight' is missing"):
        ExpertSpace(base, [first, second], ["coding", "database"])


def test_an_extra_tensor_is_named(tmp_path):
    base, first, second = models(tmp_path)
    first["adapter.weight"] = torch.zeros(2)
    with pytest.raises(ValueError, match=r"coding.*'adapter\.weight' is not in the base"):
        ExpertSpace(base, [first, second], ["coding", "database"])


def test_a_wrong_shape_is_named_with_both_shapes(tmp_path):
    base, first, second = models(tmp_path)
    first["embed.weight"] = torch.zeros(10, 4)
    with pytest.raises(ValueError, match=r"coding.*'embed\.weight' has shape \(10, 4\), the base has \(9, 4\)"):
        ExpertSpace(base, [first, second], ["coding", "database"])


def test_many_problems_make_one_short_message(tmp_path):
    base, first, _ = models(tmp_path)
    with pytest.raises(ValueError, match=rf"and {len(SHAPES) - 3} more"):
        ExpertSpace(base, [first, {}], ["coding", "database"])


def test_a_parameter_that_the_base_lacks_is_named(tmp_path):
    base, *experts = models(tmp_path)
    with pytest.raises(ValueError, match=r"base.*'lm_head\.weight' is missing"):
        ExpertSpace(base, experts, ["coding", "database"], names=[*SHAPES, "lm_head.weight"])


@pytest.mark.parametrize("tasks", [[], ["coding"], ["coding", "database", "os"]])
def test_every_task_needs_an_expert(tmp_path, tasks):
    base, *experts = models(tmp_path)
    with pytest.raises(ValueError, match="one expert per task"):
        ExpertSpace(base, experts if tasks else [], tasks)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_a_weight_that_is_not_finite_is_named(tmp_path, dtype, bad):
    space = open_space(tmp_path, dtype=dtype)
    weights = {name: tensor.clone() for name, tensor in space.base.items()}
    weights["mlp.weight"][1, 2] = bad
    with pytest.raises(ValueError, match=r"experts\.os: tensor 'mlp\.weight'"):
        space.fingerprint(weights, label="experts.os")


def test_a_fingerprint_tells_any_bit_and_reports_every_byte(space):
    read_bytes: list[int] = []
    first = space.fingerprint(space.base, label="base", progress=read_bytes.append)
    assert sum(read_bytes) == sum(tensor.nbytes for tensor in space.base.values())
    assert first == space.fingerprint({n: t.clone() for n, t in space.base.items()}, label="base")
    for name in SHAPES:
        changed = {n: t.clone() for n, t in space.base.items()}
        changed[name].view(-1)[-1] = torch.nextafter(changed[name].view(-1)[-1], torch.tensor(torch.inf))
        assert space.fingerprint(changed, label="base") != first


def test_only_the_named_parameters_evolve(tmp_path):
    base, *experts = models(tmp_path)
    experts[0]["norm.weight"] = torch.zeros(99)  # a part that does not evolve need not fit
    space = ExpertSpace(base, experts, ["coding", "database"], names=["embed.weight", "scale"])
    assert list(space.matrices()) == ["embed.weight"]
    parameters = {name: nn.Parameter(torch.zeros(SHAPES[name])) for name in space.names}
    materialise(space.expert(1), parameters)
    assert all(bits(parameters[name]) == bits(experts[1][name]) for name in space.names)
