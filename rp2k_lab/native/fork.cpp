#include "fork.h"

#include <pthread.h>

#include <algorithm>
#include <vector>

namespace rp2k {
namespace {

// Never destroyed: the process may fork while it ends.
std::vector<std::mutex *> &held = *new std::vector<std::mutex *>;

void lock_all() {
    for (std::mutex *mutex : held) mutex->lock();
}

void unlock_all() {
    for (std::mutex *mutex : held) mutex->unlock();
}

}  // namespace

void hold_during_fork(std::mutex &mutex) {
    if (std::find(held.begin(), held.end(), &mutex) != held.end()) return;
    if (held.empty()) pthread_atfork(lock_all, unlock_all, unlock_all);
    held.push_back(&mutex);
}

}  // namespace rp2k
