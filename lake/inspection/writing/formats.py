"""The formats that a lake is written in. Light, as the command line names them."""

# {format: what reads its folder, which is in the braces}
FORMATS = {
    "png": "any program: images, masks (0 and 255) and {folder}/table.csv",
    "parquet": "datasets.load_dataset('{folder}'), or pandas, DuckDB: {folder}/data",
    "array_record": "tfds.builder_from_directory('{folder}').as_data_source(), or Grain",
    "coco": "pycocotools.coco.COCO('{folder}/annotations/instances_SPLIT.json')",
    "nnunet": "nnUNetv2_plan_and_preprocess --verify_dataset_integrity, nnUNet_raw={parent}",
}
