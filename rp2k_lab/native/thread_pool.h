// One pool of threads for oneDNN, for MindSpore's own kernels and for this library.
#pragma once

#include <functional>

namespace rp2k {

// Set the number of threads, with the caller's own; they start at the first use, again after a fork.
void set_threads(int threads);
int threads();

// Whether the calling thread is inside of `parallel_for`.
bool in_parallel();

// Run body(task, tasks) for each task of 0 … tasks - 1 on the pool and the caller; return when all are done.
//
// While another thread uses the pool, and inside of a task, the caller runs all tasks itself.  An exception of a task
// is thrown again here.
void parallel_for(int tasks, const std::function<void(int task, int tasks)> &body);

}  // namespace rp2k
