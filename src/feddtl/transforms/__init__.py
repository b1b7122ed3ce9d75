"""What an update passes on its way to the server: a chain of transforms. `feddtl.transforms.catalog` lists them."""
