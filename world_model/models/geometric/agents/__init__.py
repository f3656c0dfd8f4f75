"""Road users in the geometric world: found in voxels, kept in its state, drawn as whole bodies."""
