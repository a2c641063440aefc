"""A folder of training pictures: files, captions, buckets, crops, and a cache of tensors."""
