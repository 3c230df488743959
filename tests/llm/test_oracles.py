import json

import pytest

from cyqd.llm.tasks.calls import Other, decode, encode
from cyqd.llm.tasks.oracles import agree


def test_values_survive_the_way_out_of_the_sandbox():
    values = [None, True, 3, -(2**70), 0.1, float("inf"), "é\ud800", b"\xff", 1 - 2j, (1, [2, (3,)]), {1, (2,)}]
    values += [{(1, 2): {"a": [None]}, 3: ()}]
    assert [decode(json.dumps(encode(value))) for value in values] == values
    assert [type(decode(json.dumps(encode(value)))) for value in values] == [type(value) for value in values]
    assert decode(json.dumps(encode({"a": 1}.keys()))) == {"a"}
    assert isinstance(decode(json.dumps(encode(iter([])))), Other)


@pytest.mark.parametrize(
    ("name", "arguments", "expected", "output", "atol", "agrees"),
    [
        ("f", [], 1, True, 0, True),
        ("f", [], [1], (1,), 0, False),
        ("f", [], 0.3, 0.1 + 0.2, 0, True),
        ("f", [], 0.3, 0.3001, 0, False),
        ("f", [], 0.3, 0.3001, 1e-3, True),
        ("f", [], [0.3, 1.0], [0.1 + 0.2, 1.0], 0, True),
        ("f", [], [0.3], (0.1 + 0.2,), 0, False),
        ("f", [], [0.3, 0.3], [0.1 + 0.2], 0, False),
        ("f", [], float("nan"), float("nan"), 0, False),
        ("f", [], "a", "b", 1e-3, False),
        ("f", [], 10**9, 10**9 + 1, 1e-4, True),  # a relative tolerance of 1e-7 comes with an absolute one
        ("f", [], None, Other("match"), 0, False),
        ("f", [], (1.0, 1.0), ((1.0, 1.0), (1.0, 1.0)), 0, True),  # NumPy broadcasts
        ("f", [], [1.0] * 5000, [[1.0]] * 5000, 0, False),  # but not to what fills the memory
        ("Diff", [], [1, 2], {2, 1}, 0, True),
        ("check_str", [], Other("match"), Other("match"), 0, True),
        ("check_str", [], None, False, 0, True),
        ("check_str", [], None, "x", 0, False),
        ("find_zero", [[-4.0, 2.0]], 1.9, 2.0, 1e-4, True),
        ("find_zero", [[-4.0, 2.0]], 2.0, 1.9, 1e-4, False),
        ("find_zero", [[-4.0, 2.0]], 2.0, None, 1e-4, False),
        ("are_equivalent", [1, 2], True, "?", 0, True),
        ("sum_div", [9], 4, 0, 0, True),
        ("digit_distance_nums", [1, 256], 3, 12, 0, True),
        ("surface_Area", [3, 4], 33, 35, 0, True),
        ("surface_Area", [3, 4], 33, None, 0, False),
    ],
)
def test_outputs_are_compared_as_evalplus_does(name, arguments, expected, output, atol, agrees):
    if name == "Diff":  # the sandbox takes the sets
        expected = set(expected)
    assert agree(name, [arguments], [expected], [output], atol=atol) == agrees


def test_a_tolerance_holds_from_the_first_expected_float_on():
    assert agree("f", [[], []], [0.5, 10**9], [0.5, 10**9 + 1], atol=0)
    assert not agree("f", [[], []], [10**9, 0.5], [10**9 + 1, 0.5], atol=0)
    assert not agree("f", [[], []], [1, 2], [1], atol=0)
