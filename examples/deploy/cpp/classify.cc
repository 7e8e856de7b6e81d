// Classifies many images with several threads: each has a network of its own, and all of them share the mapped weights.
//
//     g++ -std=c++17 -O2 -Idigits examples/deploy/cpp/classify.cc -Ldigits -lnetwork -Wl,-rpath,'$ORIGIN/digits' -pthread -o classify-images
//     ./classify-images 2 digits/weights.bin digits/sample/image.bin ...
//
// An image is a file of dense float32 numbers in the shape of the network's input. What it is comes in the order of the
// files, whichever thread was faster.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "specc.hpp"

namespace {

struct Answer {
  std::size_t category = 0;
  double probability = 0;
};

std::vector<float> read_image(const std::string &path) {
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  if (!file) throw specc::Error(path + " cannot be read");
  const auto bytes = static_cast<std::uint64_t>(file.tellg());
  const specc_tensor &input = specc::Network::input(0);
  if (bytes != input.bytes)
    throw specc::Error(path + " has " + std::to_string(bytes) + " bytes, and `" + input.name + "` takes " +
                       std::to_string(input.bytes));
  std::vector<float> image(bytes / sizeof(float));
  file.seekg(0).read(reinterpret_cast<char *>(image.data()), static_cast<std::streamsize>(bytes));
  if (!file) throw specc::Error(path + " cannot be read");
  return image;
}

// The greatest of the scores, and its share of their softmax.
Answer answer(const std::vector<float> &scores) {
  const auto best = std::max_element(scores.begin(), scores.end());
  double sum = 0;
  for (const float score : scores) sum += std::exp(static_cast<double>(score) - *best);
  return {static_cast<std::size_t>(best - scores.begin()), 1 / sum};
}

std::vector<Answer> classify(const std::vector<std::string> &paths, const std::string &weights_path, int threads) {
  const auto weights = std::make_shared<const specc::Weights>(weights_path);
  std::vector<Answer> answers(paths.size());
  std::atomic<std::size_t> next{0};
  std::vector<std::exception_ptr> problems(static_cast<std::size_t>(threads));
  std::vector<std::thread> workers;
  for (int number = 0; number < threads; number++)
    workers.emplace_back([&, number] {
      try {
        specc::Network network(weights);
        for (std::size_t i = next++; i < paths.size(); i = next++) answers[i] = answer(network.run(read_image(paths[i])));
      } catch (...) {
        problems[static_cast<std::size_t>(number)] = std::current_exception();
        next = paths.size();  // the others stop, too
      }
    });
  for (std::thread &worker : workers) worker.join();
  for (const std::exception_ptr &problem : problems)
    if (problem) std::rethrow_exception(problem);
  return answers;
}

}  // namespace

int main(int count, char **words) {
  const int threads = count > 3 ? std::atoi(words[1]) : 0;
  if (threads < 1) {
    std::fprintf(stderr, "usage: %s THREADS weights.bin IMAGE.bin...\n", words[0]);
    return 2;
  }
  try {
    const std::vector<std::string> paths(words + 3, words + count);
    const auto start = std::chrono::steady_clock::now();
    const std::vector<Answer> answers = classify(paths, words[2], threads);
    const std::chrono::duration<double, std::milli> time = std::chrono::steady_clock::now() - start;
    for (std::size_t i = 0; i < paths.size(); i++)
      std::printf("%s: class %zu, %.2f %%\n", paths[i].c_str(), answers[i].category, 100 * answers[i].probability);
    std::fprintf(stderr, "%zu images with %d threads in %.2f ms\n", paths.size(), threads, time.count());
  } catch (const std::exception &problem) {
    std::fprintf(stderr, "%s: %s\n", words[0], problem.what());
    return 1;
  }
  return 0;
}
