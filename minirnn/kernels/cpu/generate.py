class Sampler: pass
