import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from model.flow import interpolate, sample_flow_time, velocity_loss_B


@pytest.mark.parametrize(("t", "expected"), [(0.0, 2.0), (0.25, 3.0), (1.0, 6.0)])
def test_interpolate_one_number_is_on_the_straight_line(t, expected):
    noise, data = torch.tensor([[2.0]]), torch.tensor([[6.0]])
    point, velocity = interpolate(noise, data, torch.tensor([t]))
    assert (point.item(), velocity.item()) == (expected, 4.0)


@given(t=st.floats(0, 1, width=32))
def test_interpolate_following_the_velocity_reaches_the_data(t):
    generator = torch.Generator().manual_seed(0)
    noise, data = torch.randn(2, 3, 4, 5, generator=generator)
    point, velocity = interpolate(noise, data, torch.full((3,), t))
    torch.testing.assert_close(point + (1 - t) * velocity, data, rtol=1e-4, atol=1e-5)


def test_interpolate_each_sample_has_its_own_time():
    point, _ = interpolate(torch.zeros(2, 3, 4), torch.ones(2, 3, 4), torch.tensor([0.25, 0.75]))
    assert point[0].unique().tolist() == [0.25]
    assert point[1].unique().tolist() == [0.75]


def test_velocity_loss_exact_errors():
    predicted = torch.tensor([[1.0, 2.0], [0.0, 0.0]])
    target = torch.tensor([[1.0, 4.0], [3.0, 1.0]])
    assert velocity_loss_B(predicted, target).tolist() == [2.0, 5.0]


def test_sample_flow_time_median_is_a_half():
    assert sample_flow_time(torch.tensor([0.0])).item() == 0.5
    assert 0 < sample_flow_time(torch.tensor([-5.0])).item() < 0.01
