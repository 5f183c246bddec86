"""What is said about the licences of a checkpoint's parts."""

from gen3r_core.checkpoint.licences import PART_LICENCES, licence_notice, licences_of

EVERY_PART = [f"{folder}/x" for part in PART_LICENCES for folder in part.folders]


def test_parts_are_found_by_folder_in_a_fixed_order():
    parts = licences_of(["vggt/model.safetensors", "wan_vae/config.json", "model_index.json", "other/x"])
    assert [part.folders for part in parts] == [("wan_vae",), ("vggt",)]


def test_a_file_of_the_root_is_no_part():
    assert licences_of(["vggt"]) == ()


def test_every_network_has_a_licence():
    named = {folder for part in licences_of(EVERY_PART) for folder in part.folders}
    assert {"transformer", "wan_vae", "geo_adapter", "vggt", "text_encoder", "clip_image_encoder"} <= named


def test_the_notice_warns_of_non_commercial_parts():
    notice = licence_notice("a/b", "mit", licences_of(EVERY_PART))
    assert notice.startswith("a/b: licence on its card: mit\n")
    assert "vggt: VGGT-1B: CC-BY-NC-4.0" in notice
    assert "VGGT-1B-Commercial" in notice
    assert "The whole is not for commercial use" in notice


def test_the_notice_of_free_parts_does_not_warn():
    notice = licence_notice("a/b", None, licences_of(["wan_vae/x"]))
    assert "none stated" in notice
    assert "The whole is not" not in notice
