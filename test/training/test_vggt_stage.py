"""The VGGT stage: it learns, every parameter does, views and resuming are deterministic."""

import copy

import pytest
import torch
from room_clips import VGGT_TINY, gradient_report, room_batch, train

from gen3r_core.errors import CheckpointError, InputError
from gen3r_core.training import vggt
from gen3r_core.training.components import load_frozen

SMALL = VGGT_TINY | {"image_size": 28, "patch_embed": VGGT_TINY["patch_embed"] | {"image_size": 28}}


def stage(**values):
    return vggt.from_config({"config": SMALL} | values, "cpu")


def weights(module):
    return {key: value.clone() for key, value in module.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_it_learns_a_batch():
    """Some dozen steps take the loss to less than half, and every figure of merit of depth with it."""
    own, batch = stage(), room_batch(0, 2, 4, (28, 28))
    before = own.validate(batch)
    losses, _ = train(own, batch, 25, 4e-3)
    after = own.validate(batch)
    assert sum(losses[-5:]) / 5 < 0.5 * losses[0]
    assert after["absrel"] < 0.5 * before["absrel"]
    assert after["points_error"] < before["points_error"]
    assert after["delta125"] > before["delta125"]
    assert after["fov_error"] < before["fov_error"]
    assert set(after) == {
        "absrel", "delta125", "auc30", "rotation_error", "translation_error", "fov_error", "points_error"
    }  # fmt: skip


def test_gradients_reach_every_parameter_and_the_mask_token_stays():
    own = stage()
    token = own.module.aggregator.patch_embed.mask_token.clone()
    train(own, room_batch(0, 2, 4), 2)
    assert gradient_report(own.module) == ([], [], [])
    assert torch.equal(own.module.aggregator.patch_embed.mask_token, token)


def test_loss_does_not_touch_what_it_is_given_and_figures_are_detached():
    own, batch = stage(), room_batch(0, 2, 4)
    before = copy.deepcopy(batch)
    _, figures = own.loss(batch, 0, torch.Generator().manual_seed(0))
    assert torch.equal(batch.colors, before.colors)
    assert torch.equal(batch.depth, before.depth)
    assert not any(value.requires_grad for value in figures.values())
    assert set(figures) == {"camera", "pairs", "depth", "points", "depth_error", "points_error"}


def test_resumed_equals_uninterrupted():
    batch = room_batch(0, 2, 5)
    whole, first, second = stage(), stage(), stage(seed=0)
    train(whole, batch, 4)
    _, optimizer = train(first, batch, 2)
    second.module.load_state_dict(first.module.state_dict())
    resumed = torch.optim.AdamW([p for p in second.module.parameters() if p.requires_grad], 1e-3, betas=(0.9, 0.95))
    resumed.load_state_dict(optimizer.state_dict())
    train(second, batch, 2, start=2, optimizer=resumed)
    assert same(weights(whole.module), weights(second.module))
    assert not same(weights(whole.module), weights(first.module))


def test_views_are_the_first_and_others_without_repetition():
    own = stage(min_views=3, max_views=3)
    batch = room_batch(0, 3, 6)
    views = own.choose_views(batch, 0, torch.Generator().manual_seed(0))
    orders = []
    for clip in range(3):
        found = [
            next(f for f in range(6) if torch.equal(batch.colors[clip, f], views.colors[clip, view]))
            for view in range(3)
        ]
        for view, frame in enumerate(found):
            assert torch.equal(views.depth[clip, view], batch.depth[clip, frame])
            assert torch.equal(views.T_world_cam[clip, view], batch.T_world_cam[clip, frame])
            assert torch.equal(views.intrinsics[clip, view], batch.intrinsics[clip, frame])
        assert found[0] == 0
        assert len(set(found)) == 3
        orders.append(tuple(found))
    assert len(set(orders)) > 1


def test_the_number_of_views_varies_with_the_step_alone():
    own = stage(min_views=2)
    counts = [own.view_count(step, 5) for step in range(60)]
    assert set(counts) == {2, 3, 4, 5}
    again, chosen = stage(min_views=2), stage(view_counts=[2, 4, 17])
    assert counts == [again.view_count(step, 5) for step in range(60)]
    assert {chosen.view_count(step, 5) for step in range(30)} == {2, 4}
    assert {own.view_count(step, 1) for step in range(5)} == {1}


def test_depth_only_steps_leave_cameras_and_points():
    own, batch = stage(depth_only_steps=1), room_batch(0, 1, 3)
    generator = torch.Generator().manual_seed(0)
    own.loss(batch, 0, generator)[0].backward()
    assert own.module.camera_head.pose_branch.fc2.weight.grad.abs().max() == 0
    assert own.module.point_head.scratch.output_conv2[2].weight.grad.abs().max() == 0
    assert own.module.depth_head.scratch.output_conv2[2].weight.grad.abs().max() > 0
    own.loss(batch, 1, generator)[0].backward()
    assert own.module.camera_head.pose_branch.fc2.weight.grad.abs().max() > 0


def test_relative_depth_errors_weigh_near_pixels_more():
    batch = room_batch(0, 1, 2)
    values = [
        stage(depth_error=kind, camera_weight=0, point_weight=0).loss(batch, 0, torch.Generator().manual_seed(0))
        for kind in ("absolute", "relative")
    ]
    assert values[0][0] != values[1][0]
    assert values[0][1]["depth_error"] == values[1][1]["depth_error"]


def test_camera_errors_of_either_kind():
    batch = room_batch(0, 1, 2)
    huber, absolute = (
        stage(camera_error=kind).loss(batch, 0, torch.Generator().manual_seed(0))[1]["camera"]
        for kind in ("huber", "l1")
    )
    assert absolute > 2 * huber > 0


def test_the_layout_of_weights_changes_nothing():
    batch, own, other = room_batch(0, 1, 3), stage(), stage(channels_last=True)
    heads = other.module.depth_head.scratch.refinenet1.resConfUnit1
    assert heads.conv1.weight.is_contiguous(memory_format=torch.channels_last)
    losses = [which.loss(batch, 0, torch.Generator().manual_seed(0))[0] for which in (own, other)]
    torch.testing.assert_close(losses[0], losses[1])


def test_a_fresh_network_sees_about_one_radian_and_seeds_differ():
    batch = room_batch(0, 1, 2)
    prediction = stage().module(batch.colors)
    torch.testing.assert_close(prediction.pose_encoding[..., 7:], torch.ones(1, 2, 2), atol=0.5, rtol=0)
    state = torch.get_rng_state()
    assert same(weights(stage().module), weights(stage().module))
    assert not same(weights(stage().module), weights(stage(seed=1).module))
    assert torch.equal(torch.get_rng_state(), state)
    gammas = stage(layer_scale=0.2).module.aggregator.global_blocks[0].ls1.gamma
    assert torch.equal(gammas, torch.full_like(gammas, 0.2))


def test_export_and_starting_from_it(tmp_path):
    own = stage()
    average = {key: value.detach() + 1 for key, value in own.module.named_parameters() if value.requires_grad}
    own.export(tmp_path / "vggt", average)
    loaded = load_frozen("vggt", tmp_path, "cpu")
    assert torch.equal(loaded.camera_head.embed_pose.weight, own.module.camera_head.embed_pose.weight + 1)
    assert torch.equal(loaded.aggregator.patch_embed.mask_token, own.module.aggregator.patch_embed.mask_token)
    again = vggt.from_config({"initial": str(tmp_path / "vggt")}, "cpu")
    assert same(weights(again.module), weights(loaded))
    train(again, room_batch(0, 1, 3), 1)
    assert gradient_report(again.module)[2] == []
    assert not again.module.aggregator.patch_embed.mask_token.requires_grad
    # Training does not write into the files it started from.
    assert same(weights(load_frozen("vggt", tmp_path, "cpu")), weights(loaded))


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ({"config": SMALL, "view": 2}, InputError, "vggt: unknown option 'view'"),
        ({"config": SMALL, "depth_error": "square"}, InputError, "'depth_error' is 'square'; choose one of: absolute"),
        ({"config": SMALL, "min_views": 0}, InputError, "'min_views' must be at least 1, got 0"),
        ({"config": SMALL, "min_views": 4, "max_views": 3}, InputError, "'max_views' is 3, below 'min_views' = 4"),
        ({"config": SMALL, "view_counts": [0]}, InputError, "'view_counts' must be at least 1"),
        ({"config": SMALL, "alpha": -1}, InputError, "'alpha' must be at least 0"),
        ({}, InputError, "vggt: give either its sizes .* or the folder of weights to start from"),
        ({"config": SMALL, "initial": "x"}, InputError, "give either"),
        ({"config": SMALL | {"depth": 0}}, CheckpointError, "depth must be a positive whole number"),
        ({"initial": "/nowhere"}, CheckpointError, "vggt: folder /nowhere does not exist"),
    ],
)
def test_wrong_configurations(values, error, message):
    with pytest.raises(error, match=message):
        vggt.from_config(values, "cpu")


def test_a_source_without_depth_is_refused():
    with pytest.raises(InputError, match="the VGGT stage needs clips with depth and cameras"):
        stage().loss(room_batch(0, 1, 2, depth=False), 0, torch.Generator())


def test_a_folder_of_another_part_is_refused(tmp_path):
    stage().export(tmp_path / "vggt")
    (tmp_path / "vggt").rename(tmp_path / "geometry_adapter")
    with pytest.raises(CheckpointError, match="unknown key"):
        load_frozen("geometry_adapter", tmp_path, "cpu")


@pytest.mark.slow
def test_compiled_as_one_graph(monkeypatch):
    """The whole network traces without a break."""
    graphs = []

    def capture(function):
        def backend(graph, _):
            graphs.append(graph)
            return graph.forward

        return compiled(function, backend=backend, fullgraph=True)

    compiled = torch.compile
    monkeypatch.setattr(torch, "compile", capture)
    own, plain, batch = stage(compile="network"), stage(), room_batch(0, 1, 2)
    losses = [which.loss(batch, 0, torch.Generator().manual_seed(0))[0] for which in (own, plain)]
    torch.testing.assert_close(losses[0], losses[1])
    assert len(graphs) == 1


def test_some_views_teach_the_dense_heads():
    """The loss is that of all views with the others masked out; another step draws other views."""
    batch, generator = room_batch(0, 2, 4), torch.Generator()
    own = stage(dense_views=2, min_views=4, gradient_weight=0, camera_weight=0)
    whole = stage(min_views=4, gradient_weight=0, camera_weight=0)
    chosen = [sorted(own._dense_views(step, batch).tolist()) for step in range(6)]
    assert all(len(set(places)) == 2 for places in chosen)
    assert len({tuple(places) for places in chosen}) > 1
    loss, _ = own.loss(batch, 0, generator.manual_seed(0))
    views = whole.choose_views(batch, 0, generator.manual_seed(0))
    truth = vggt.normalised_truth(views)
    truth.mask[:, [place for place in range(4) if place not in chosen[0]]] = False
    depth, points = whole._dense_losses(whole.module(views.colors), truth)
    torch.testing.assert_close(loss, depth.total + points.total)


def test_cameras_learn_from_all_views_whatever_the_dense_heads_see():
    batch = room_batch(0, 1, 4)
    values = [
        stage(min_views=4, **own).loss(batch, 0, torch.Generator().manual_seed(0))[1]["camera"]
        for own in ({}, {"dense_views": 1}, {"dense_views": 4})
    ]
    torch.testing.assert_close(values[0], values[1])
    torch.testing.assert_close(values[0], values[2])
