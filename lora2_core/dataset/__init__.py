"""A folder of training pictures: reading, captions, buckets, crops, the cache."""
