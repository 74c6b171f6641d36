"""The store on etcd v3, for control services beyond one machine."""
