"""Link shards: the streams to the Borglets."""
