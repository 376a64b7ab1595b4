/* Takes the place of the randomness of the system: the same seed gives the same octets. Hash tables of the standard library, the
   order in which the runtime polls, and ids depend on it. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/types.h>

static uint64_t state;

static uint64_t draw(void)
{
    /* SplitMix64. */
    uint64_t z = state += 0x9e3779b97f4a7c15;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
}

ssize_t getrandom(void *buffer, size_t octets, unsigned flags)
{
    (void)flags;
    if (state == 0) {
        const char *seed = getenv("SIMULATION_SEED");
        state = (seed ? strtoull(seed, NULL, 10) : 0) * 2 + 1;
    }
    unsigned char *out = buffer;
    for (size_t at = 0; at < octets; at++)
        out[at] = (unsigned char)draw();
    return (ssize_t)octets;
}
