#include "quant/calibration.h"

#include <set>

#include "base/testing/expect_error.h"
#include "base/testing/temp_folder.h"

namespace d2q {
namespace {

/// One token a byte; its id is the byte's place in the text, so that a window shows its offset.
class PlaceTokenizer final : public Tokenizer {
 public:
  int32_t vocab_size() const override { return 1 << 20; }
  std::vector<int32_t> encode(std::string_view text, bool add_special) const override {
    EXPECT_FALSE(add_special);
    std::vector<int32_t> ids;
    for (size_t i = 0; i < text.size(); ++i) ids.push_back(static_cast<int32_t>(i));
    return ids;
  }
  std::string token_bytes(int32_t, bool) const override { return "x"; }
  std::string decode(std::span<const int32_t> ids, bool) const override {
    return std::string(ids.size(), 'x');
  }
  std::optional<int32_t> find_token(std::string_view) const override { return std::nullopt; }
};

CalibrationSet windows(size_t n_tokens, int64_t samples, int64_t length, uint64_t seed) {
  return sample_windows(std::string(n_tokens, 'x'), "text", PlaceTokenizer(), samples, length,
                        seed);
}

TEST(CalibrationText, IsReadAsItIs) {
  const testing::TempFolder folder;
  const std::string text = "a line\n\nanother\xff\n{\"text\": 1}\n";
  EXPECT_EQ(read_calibration_text(folder.write("text.txt", text)), text);
}

TEST(CalibrationText, JoinsTheRecordsOfJsonLines) {
  const testing::TempFolder folder;
  const auto path = folder.write("data.jsonl",
                                 "{\"text\": \"one\"}\n"
                                 "\n"
                                 "{\"content\": \"two \\u00e9\", \"id\": 3}\r\n"
                                 "  \t\n"
                                 "{\"text\": \"three\", \"content\": \"not this\"}");
  EXPECT_EQ(read_calibration_text(path), "one\n\ntwo \xc3\xa9\n\nthree");
}

TEST(CalibrationText, ABadLineIsNamedByItsNumber) {
  const testing::TempFolder folder;
  const struct {
    const char* content;
    const char* message;
  } cases[] = {
      {"{\"text\": \"a\"}\n{\"text\": \n", "line 2: not valid JSON"},
      {"[\"text\"]\n", "line 1 is not a JSON object"},
      {"{\"text\": \"\xff\"}\n", "line 1: not valid JSON"},
      {"{\"text\": \"a\"}\n\n{\"title\": \"b\"}\n", "line 3 has no string"},
      {"{\"text\": 5}\n", "line 1 has no string"},
  };
  for (const auto& bad : cases) {
    SCOPED_TRACE(bad.content);
    D2Q_EXPECT_ERROR(read_calibration_text(folder.write("bad.jsonl", bad.content)),
                     ErrorCode::kCorrupt, bad.message);
  }
}

TEST(CalibrationText, EmptyAndMissingFilesAreErrors) {
  const testing::TempFolder folder;
  for (const char* content : {"", "\n \n", "{\"text\": \"\"}\n"}) {
    SCOPED_TRACE(content);
    D2Q_EXPECT_ERROR(read_calibration_text(folder.write("empty.jsonl", content)),
                     ErrorCode::kInvalidArgument, "empty");
  }
  D2Q_EXPECT_ERROR(read_calibration_text(folder.write("empty.txt", "")),
                   ErrorCode::kInvalidArgument, "empty.txt");
  D2Q_EXPECT_ERROR(read_calibration_text(folder.path() / "none.txt"), ErrorCode::kNotFound,
                   "none.txt");
}

TEST(CalibrationWindows, AreRunsOfTheTextAtRandomOffsets) {
  const CalibrationSet set = windows(1000, 50, 20, 0);
  EXPECT_EQ(set.samples, 50);
  EXPECT_EQ(set.sequence_length, 20);
  ASSERT_EQ(set.ids.size(), 1000u);
  std::set<int32_t> offsets;
  for (size_t sample = 0; sample < 50; ++sample) {
    const int32_t offset = set.ids[sample * 20];
    offsets.insert(offset);
    EXPECT_GE(offset, 0);
    EXPECT_LE(offset, 980);
    for (int32_t i = 0; i < 20; ++i) {
      EXPECT_EQ(set.ids[sample * 20 + static_cast<size_t>(i)], offset + i);
    }
  }
  EXPECT_GT(offsets.size(), 40u);
}

TEST(CalibrationWindows, DependOnTheSeedAlone) {
  const CalibrationSet set = windows(1000, 8, 20, 4);
  EXPECT_EQ(windows(1000, 8, 20, 4).ids, set.ids);
  EXPECT_EQ(windows(1000, 8, 20, 4).hash, set.hash);
  EXPECT_NE(windows(1000, 8, 20, 5).ids, set.ids);
  EXPECT_NE(windows(1000, 8, 20, 5).hash, set.hash);
  // The first windows do not depend on how many follow, and the hash sees every id.
  const CalibrationSet longer = windows(1000, 9, 20, 4);
  EXPECT_TRUE(std::equal(set.ids.begin(), set.ids.end(), longer.ids.begin()));
  EXPECT_NE(longer.hash, set.hash);
}

TEST(CalibrationWindows, OneTokenMoreThanAWindowIsEnough) {
  EXPECT_EQ(windows(21, 1, 20, 0).ids.front(), 0);
  D2Q_EXPECT_ERROR(windows(20, 1, 20, 0), ErrorCode::kInvalidArgument,
                   "text: 20 tokens are too few for windows of 20");
}

TEST(CalibrationWindows, IdsOfAWrongCountAreOurBug) {
  EXPECT_THROW(make_calibration_set({1, 2, 3}, 2, 2), InternalError);
}

TEST(HeldOutWindows, AreNotCalibratedOn) {
  const std::string text(20000, 'x');
  const CalibrationSet calibration = windows(text.size(), 8, 300, 3);
  const std::set<int32_t> seen(calibration.ids.begin(), calibration.ids.end());
  const HeldOutWindows held_out =
      held_out_windows(text, PlaceTokenizer(), 8, 300, /*seed=*/3, 4, 256);
  EXPECT_TRUE(held_out.unseen);
  EXPECT_EQ(held_out.length, 256);
  ASSERT_EQ(held_out.ids.size(), 4u * 256u);
  for (size_t i = 0; i < held_out.ids.size(); ++i) {
    EXPECT_FALSE(seen.contains(held_out.ids[i]));
    if (i % 256 != 0) {
      EXPECT_EQ(held_out.ids[i], held_out.ids[i - 1] + 1);
    }
  }
}

TEST(HeldOutWindows, AreSeenOnesWhereCalibrationCoversTheText) {
  const HeldOutWindows held_out =
      held_out_windows(std::string(1000, 'x'), PlaceTokenizer(), 200, 300, 3, 4, 256);
  EXPECT_FALSE(held_out.unseen);
  EXPECT_EQ(held_out.length, 256);
  ASSERT_EQ(held_out.ids.size(), 3u * 256u);
  EXPECT_EQ(held_out.ids.front(), 0);
  EXPECT_EQ(held_out.ids.back(), 999);
}

}  // namespace
}  // namespace d2q
