// Work shared among threads.

#pragma once

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

#define INLINE inline __attribute__((always_inline))

namespace {

constexpr int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// OpenMP's GOMP_parallel where the process has it: its threads wait busily for a while after each
// of their works, in the way of any others. Null: threads of our own.
using Parallel = void (*)(void (*)(void *), void *, unsigned, unsigned);

// The parts of a work, each taken by whichever thread comes first.
template <class Work>
struct Parts {
    const Work &work;
    int count;
    std::atomic<int> next{0};
    static void take(void *given) {
        Parts *parts = static_cast<Parts *>(given);
        for (int t; (t = parts->next++) < parts->count;) parts->work(t);
    }
};

template <class Work>
void in_parallel(Parallel parallel, int threads, const Work &work) {
    Parts<Work> parts{work, threads};
    if (parallel) return parallel(Parts<Work>::take, &parts, threads, 0);
    std::vector<std::thread> others;
    for (int t = 1; t < threads; ++t) others.emplace_back(Parts<Work>::take, &parts);
    Parts<Work>::take(&parts);
    for (std::thread &one : others) one.join();
}

// Where the share of thread t of a task's threads begins.
template <class Task>
INLINE int64_t share(int64_t all, const Task &d, int t) {
    return all * t / d.threads;
}

}  // namespace
