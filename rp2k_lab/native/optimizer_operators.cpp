// Updates of parameters in place.

#include "operators.h"

namespace rp2k {
namespace {

RP2K_WIDE void move(float *__restrict weight, float *__restrict velocity, const float *__restrict gradient, float rate,
                        float momentum, float decay, int64_t size) {
    for (int64_t i = 0; i < size; ++i) {
        const float v = momentum * velocity[i] + (gradient[i] + decay * weight[i]);
        velocity[i] = v;
        weight[i] -= rate * v;
    }
}

}  // namespace

// weight and velocity change in place; gradient; rate (), momentum (), decay (); the output, of one element, means
// nothing: velocity = momentum · velocity + gradient + decay · weight, weight -= rate · velocity
RP2K_OPERATOR(momentum, "fffffff") {
    const Array weight = all[0], velocity = all[1], gradient = all[2];
    const float rate = *all[3].data, momentum = *all[4].data, decay = *all[5].data;
    in_parts(weight.size(), parts_of(weight.size(), WORTH_A_TASK), [&](int, int64_t begin, int64_t end) {
        move(weight.data + begin, velocity.data + begin, gradient.data + begin, rate, momentum, decay, end - begin);
    });
    *all[6].data = rate;
}

}  // namespace rp2k
