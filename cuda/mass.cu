// Entry point: the probability mass of keys.
#include "mass.cuh"

HORNBEAM_KERNEL(hornbeam_key_mass, hornbeam::KeyMass, hornbeam::ATTENTION_THREADS, 2) {
    HORNBEAM_SHARED(memory);
    hornbeam::key_mass(p, memory);
}
