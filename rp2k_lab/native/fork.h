// Mutexes that a child of fork finds unlocked.
#pragma once

#include <mutex>

namespace rp2k {

// Hold a mutex, which lives as long as the process, while the process forks.
void hold_during_fork(std::mutex &);

}  // namespace rp2k
